"""The Textual program: a viewer of stores and run directories."""
