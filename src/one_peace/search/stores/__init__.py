"""Where vectors are kept and searched: one interface, several engines behind it."""
