"""What can be asked of it?"""
