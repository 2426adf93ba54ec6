"""Images by the thousand, from files to files: survey, run, progress. Knows no flags, no HTTP and no engine."""
