"""Pictures, video and sound: decoded, fetched, encoded. Knows neither models nor HTTP."""
