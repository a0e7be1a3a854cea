"""Rules made of rules, one file each: ``NAME(rule) -> rule``, and ``OVER``, what the bare name is over."""
