"""What the doctor looks at beside KEKs, data keys and the database's posture, a file for each."""
