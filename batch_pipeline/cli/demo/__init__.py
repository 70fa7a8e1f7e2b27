"""What the command `demo` works on: documents of this machine."""
