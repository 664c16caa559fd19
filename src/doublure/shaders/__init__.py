"""What is a shader, and what does it draw?"""
