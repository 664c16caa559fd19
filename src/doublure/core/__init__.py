"""What do the parts agree on?"""
