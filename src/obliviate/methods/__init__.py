"""How a replay is judged, and how the rest of training is put back on."""
