"""Work that need not be done again: prompts, steps, blocks, guidance. Each decides for one request alone."""
