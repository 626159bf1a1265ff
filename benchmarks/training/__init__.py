"""Steps, networks and losses beside other code: in turns, in one run."""
