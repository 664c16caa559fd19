"""What can one do with it?"""
