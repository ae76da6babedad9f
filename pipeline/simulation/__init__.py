"""Music by formula, and what rooms, loudspeakers and codecs do to it."""
