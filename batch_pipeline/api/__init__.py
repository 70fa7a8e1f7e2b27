"""The two engines behind one small protocol; the only package that imports anthropic."""
