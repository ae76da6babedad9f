"""An audio file of any format to blocks of mono samples, and its tags."""
