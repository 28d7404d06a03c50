"""The serving process: observes at a steady pace, and answers from what was observed last."""
