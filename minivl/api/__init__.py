"""The classes that speak transformers' language: from_pretrained, a call, generate. The models themselves are functions
(minivl/models).
"""
