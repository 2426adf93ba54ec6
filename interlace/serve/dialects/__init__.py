"""Other services' endpoints over the same orders: one thin file each, and one line in `ROUTERS` (`app.py`)."""
