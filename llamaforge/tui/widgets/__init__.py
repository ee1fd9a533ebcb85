"""The parts that screens are made of; they render what they are given."""
