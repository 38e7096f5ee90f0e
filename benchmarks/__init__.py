"""How fast is metapt, and how good are its hypergradients?"""
