"""Methods that train one model on what another one said: several experiments and what lies between, in one folder."""
