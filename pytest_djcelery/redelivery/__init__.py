"""Delivers messages once more, and says what that changed: is a task safe to run twice?"""
