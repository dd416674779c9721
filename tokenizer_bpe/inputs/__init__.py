"""What every lesson is handed: arguments checked, and text files read in blocks."""
