"""Draws the pictures that lie in the repository, so that its pages show them where no site is built."""

from generate import schedules

schedules.draw()
