"""`interlace bench gpu`: all figures of one GPU in some nine minutes, from random weights. Knows no files of models."""
