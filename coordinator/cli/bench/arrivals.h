// When the requests of a load are sent, and the random numbers behind it: the same with every
// standard library, so that a seed names a load.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace whalepod {

// Uniform in (0, 1): never 0, whose logarithm is asked for.
double UniformReal(std::mt19937_64& random);
// Uniform in [low, high].
int64_t UniformInt(std::mt19937_64& random, int64_t low, int64_t high);
// Of the gamma distribution with this shape (> 0) and scale 1: Marsaglia and Tsang, 2000.
double Gamma(std::mt19937_64& random, double shape);

struct ArrivalOptions {
  size_t count = 0;
  double rate = 0;        // requests a second, > 0; infinity: all at once
  double burstiness = 1;  // > 0: the shape of the gamma distribution of the gaps; 1 is a Poisson
                          // process, less comes in bursts, more is more even
  uint64_t seed = 0;
};

// Seconds from the start, in order. As vLLM's: the gaps are stretched together so that the last
// request is sent after count / rate seconds.
std::vector<double> ArrivalTimes(const ArrivalOptions& options);

}  // namespace whalepod
