"""Identifiers in the pixels: what the header betrays, what tesseract reads, and faces.

Nothing here can clear an image. A rule or a reading may refuse it, crop it or
send it to a person; an image that no rule names has passed no test but these.
"""
