"""Judging the result in llama.cpp: fidelity, exact match, samples."""
