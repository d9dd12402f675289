"""`python -m onelook`, and `torchrun -m onelook` for several processes."""

from onelook.cli import main

if __name__ == "__main__":
    main()
