"""`python -m deconv_kernels` is `deconv-kernels`."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="deconv-kernels")
