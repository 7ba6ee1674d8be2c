"""Pre-training: what the teacher's and the student's training share."""
