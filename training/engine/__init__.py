"""What makes a training step fast, and what stops one that diverges; nothing here changes what
is computed.
"""
