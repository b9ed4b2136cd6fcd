#pragma once
#include <string>
struct Shape {
	virtual ~Shape() = default;
	virtual std::string name() const = 0;
};
Shape *make_square();
