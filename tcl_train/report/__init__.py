"""Tables, figures and one page out of run directories. Reads files only, and needs no torch."""
