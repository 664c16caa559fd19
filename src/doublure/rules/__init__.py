"""What happens between two optimizer steps?"""
