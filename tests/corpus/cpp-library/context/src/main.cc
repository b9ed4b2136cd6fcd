#include <iostream>
#include <memory>
#include "shape.h"
int main() { std::cout << std::unique_ptr<Shape>(make_square())->name() << '\n'; }
