"""What Tidegate is measured against: each as its own people run it, or as admins write it."""
