"""The adapter to the Anthropic API behind one protocol; no other package imports anthropic."""
