"""A run as people look at it: summary, report page, contact sheet, Parquet."""
