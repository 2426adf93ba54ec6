"""What people write in Python beside a prompt, and how outputs are shown to them. Knows no models and no engine."""
