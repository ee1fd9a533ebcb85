"""How the embedded demo model is made: its words, its text, its training and its files."""
