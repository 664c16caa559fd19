"""What is it for, and how is it scored?"""
