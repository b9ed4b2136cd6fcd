import sys


def main():
    print(sum(map(int, sys.argv[1:])))
