"""The commands, one module each; `cli.app` lists them."""
