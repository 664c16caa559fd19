"""What does an image like these look like?"""
