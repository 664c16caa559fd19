"""What is it in another language?"""
