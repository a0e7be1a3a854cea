"""Where jobs run: one function per place, all called ``submit``."""
