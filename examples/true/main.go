// Command true ends at once with exit code 0: the least that a container can
// do, for measuring what starting one costs.
package main

func main() {}
