"""The process that carries out a run directory, stage by stage."""
