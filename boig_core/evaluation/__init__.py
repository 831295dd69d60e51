"""How good generators and descriptions are: measured, compared, and reported."""
