"""Masks: whose image each belongs to, which class each pixel is of, and the image's own grid.

A mask is as hostile as an image and is read in the child process too. Nothing
is guessed: ``segments.csv`` maps segments to classes, and a mask that does not
lie on the pixels of its image is refused.
"""
