"""What becomes of a ticket before it runs and after: submitted, in the lobby, foreseen, ended. No forwards."""
