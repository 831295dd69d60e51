"""What is measured on images and descriptions, and with which confidence."""
