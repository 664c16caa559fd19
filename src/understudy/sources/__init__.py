"""What is it shown?"""
